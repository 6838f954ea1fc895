"""Who calls: the principal, and how a credential is resolved."""
