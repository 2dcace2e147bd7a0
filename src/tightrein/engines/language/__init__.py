"""The language engine: causal language models on tasks with checkable answers (PyTorch, Hugging Face)."""
