"""What is wrong, why it matters, what to do: pure judgements of facts, and the command's run through them."""
