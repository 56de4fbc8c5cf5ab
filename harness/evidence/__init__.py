"""The flight record and what is made of it: commands, redaction, verdicts, buglog."""
