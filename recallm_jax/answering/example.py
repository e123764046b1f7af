"""A document and a question about it, for a first look."""

DOCUMENT = """\
The lighthouse of Skerry Point was lit in 1874.
Its keeper was Ada Thorne, who kept the log until 1901.
The lamp burned 12 litres of colza oil a night.
"""
QUESTION = "How much oil did the lamp burn a night?"
