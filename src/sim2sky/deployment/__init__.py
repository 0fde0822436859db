"""From a trained .zip to an installed bundle."""
