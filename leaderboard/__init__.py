"""Tables, figures and a page made from stored records."""
