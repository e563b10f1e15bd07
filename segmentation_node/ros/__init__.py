"""Everything that imports ROS."""
