"""Who holds a credential, and the API tokens of users."""
