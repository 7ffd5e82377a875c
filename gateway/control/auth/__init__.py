"""Who calls: tokens, their roles and the accounts in their scope."""
