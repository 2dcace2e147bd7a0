"""What a model says of given answers: laid out, run, and read without storing logits."""
