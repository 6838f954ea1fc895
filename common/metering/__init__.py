"""What was used: units, accounts, prices, the outbox and its shipper."""
