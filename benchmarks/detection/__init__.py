"""Which number notices first? Controlled damage to one small model, and what each number sees."""
