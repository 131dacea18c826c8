"""Pre-training of language models on texts at hand: next tokens, masked tokens, SMAE."""
