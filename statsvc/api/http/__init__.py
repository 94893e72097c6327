"""HTTP mechanics: parameters, formats, conditional requests, problems, access."""
