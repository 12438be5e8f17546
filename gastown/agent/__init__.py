"""The supervisor: process 1 of every attempt. It imports nothing of gastown but its own package."""
