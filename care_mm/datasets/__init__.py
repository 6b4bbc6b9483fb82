"""Data: the drawn data set, the data check, and the paths in data set configs."""
