"""The story of one question: may this image run?"""
