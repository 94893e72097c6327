"""HTTP details shared by the routes: parameters, formats, conditional requests, problems, access."""
