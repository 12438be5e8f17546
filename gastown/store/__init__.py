"""All SQL. Functions take a session; whoever opened it commits."""
