"""The red team: a bundle and photographs in; out, which attackers get through, by what they can see, at what cost."""
