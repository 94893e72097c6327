"""What looks wrong in a dataset, from the table of a version alone: no label map is read again.

`facts` goes over the rows, `ids`, `files` and `classes` hold one small function for each kind of finding,
`report` puts them together.
"""
