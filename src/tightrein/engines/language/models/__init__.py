"""What answers: models of others and the embedded one."""
