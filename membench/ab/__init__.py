"""Two git revisions measured in turn: the comparison that a drifting machine cannot spoil."""
