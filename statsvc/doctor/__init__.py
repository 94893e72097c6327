"""The doctor: finds likely faults of a dataset in the table of one version, without reading label maps.

`facts` gathers evidence in one pass over the rows. `ids`, `files` and `classes` contain one function per kind
of finding, and `edges` the only one that reads pixels. `report` combines the findings.
"""
