"""One file per exercise: its trials and its usual mistakes."""
