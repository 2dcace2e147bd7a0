"""Other libraries that have some of the methods, run side by side with ours on random batches."""
