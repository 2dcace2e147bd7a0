"""Short runs that show what each method promises, by family."""
