"""Behind manifests.py: manifest files, their text, the records of their objects. Nothing here watches or decides."""
