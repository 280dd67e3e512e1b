"""What can the tuned model still do?"""
