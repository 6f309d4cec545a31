"""Each plot a function from records to a plotly figure (a mapping of data and layout)."""
