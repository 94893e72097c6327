"""Class weights from counts: methods, parameters, arithmetic, responses, comparison. No HTTP."""
