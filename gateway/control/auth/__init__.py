"""Authentication and authorization: tokens, their roles and the accounts in their scope."""
