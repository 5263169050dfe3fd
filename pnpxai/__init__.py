"""Which explanation of this PyTorch model can I trust, and with which settings?"""
