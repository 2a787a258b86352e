"""How is each definition made fast, and on which machines? Ordered lists of rules, the portable one last."""
