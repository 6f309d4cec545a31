"""Files of the user's, read strictly: what is wrong is one line that names the file, the line and the column."""
