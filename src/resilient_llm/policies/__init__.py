"""Pure decisions: time is an argument, chance is a `random.Random`. Nothing here waits but the bulkhead's queue."""
