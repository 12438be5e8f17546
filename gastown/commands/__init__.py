"""What people and agents may ask for. Each is one transaction, which its caller opens; effects are the caller's to
publish after the commit."""
