"""A thousand classes and few photographs: from a zip to a bundle."""
