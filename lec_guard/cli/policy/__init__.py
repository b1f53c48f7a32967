"""`lec-guard policy`: what operators do with policies before these meet a user."""
