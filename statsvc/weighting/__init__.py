"""Class weights from counts: methods, parameters, arithmetic, answers, comparison. No files, no HTTP."""
