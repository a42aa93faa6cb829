"""What lessons use beside the library."""
