"""What several methods share: templates, prefixes, gates, quantization, budgets."""
