"""The attacks that everything is measured with, beside those of other libraries."""
