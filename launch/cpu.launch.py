"""Start the segmentation node on any CPU, through OpenVINO or ONNX Runtime."""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

LAUNCH = os.path.dirname(os.path.abspath(__file__))
PARAMETERS = os.path.join(os.path.dirname(LAUNCH), "config", "cpu.yaml")


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file", default_value=PARAMETERS, description="Parameter file"
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(os.path.join(LAUNCH, "segmentation.launch.py")),
                launch_arguments=[("params_file", LaunchConfiguration("params_file"))],
            ),
        ]
    )
