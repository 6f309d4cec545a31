"""Git: asked by one file, in an environment of its own; and the commit that is running."""
