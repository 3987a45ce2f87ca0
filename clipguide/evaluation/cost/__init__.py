"""What a guided step costs over an unguided one: operations, seconds, memory."""
