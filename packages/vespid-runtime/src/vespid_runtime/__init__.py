"""What can run on either side of a Vespid link: connectors, egress guard, templates of secrets, redaction."""
