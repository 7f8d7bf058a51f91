"""All that goes out: replies, events, statuses and assignments."""
