"""Which TensorRT has which name, of the names that backend and builder use or ask for.

Written by hand. 8.2.1 (JetPack 4.6) and 8.5.2 (JetPack 5.1) have no wheels; their columns were read
in the bindings' sources, python/src of the repository NVIDIA/TensorRT at tags 8.2.1 and 8.5.2. The
other columns are tested against the official bindings, wherever this Python has a wheel of them.

To add a version of TensorRT: pin its bindings in requirements/tensorrt-bindings.txt, add it to
VERSIONS, run `make setup-test` and test_tensorrt_api.py, and correct what that finds.
"""

VERSIONS = ("8.2.1", "8.5.2", "8.6.1", "10.0.1", "10.16.1.11", "11.0.0.114", "11.4.0.106")
WITHOUT_WHEELS = VERSIONS[:2]


def _range(first: str, last: str) -> tuple[str, ...]:
    return VERSIONS[VERSIONS.index(first) : VERSIONS.index(last) + 1]


EVERY = VERSIONS
UP_TO_8 = _range("8.2.1", "8.6.1")
UP_TO_10 = _range("8.2.1", "10.16.1.11")
FROM_8_5 = _range("8.5.2", "11.4.0.106")
FROM_10 = _range("10.0.1", "11.4.0.106")
FROM_8_6 = _range("8.6.1", "11.4.0.106")

# Versions, class (empty: the module), names.
_TABLE = (
    (EVERY, "", "__version__ ILogger Logger Runtime Builder OnnxParser BuilderFlag DataType"),
    (EVERY, "", "ICudaEngine IExecutionContext IBuilderConfig INetworkDefinition ITensor"),
    (EVERY, "", "IHostMemory ITimingCache ParserError Dims NetworkDefinitionCreationFlag"),
    (FROM_8_5, "", "MemoryPoolType TensorIOMode"),
    (FROM_8_6, "", "HardwareCompatibilityLevel"),
    (FROM_10, "", "IProgressMonitor"),
    (EVERY, "ILogger", "__init__ log Severity"),
    (EVERY, "Logger", "__init__ log Severity min_severity"),
    (EVERY, "Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE name"),
    (EVERY, "DataType", "FLOAT HALF INT8 INT32 BOOL name"),
    (FROM_8_5, "DataType", "UINT8"),
    (FROM_10, "DataType", "INT64"),
    # Engines.
    (EVERY, "Runtime", "__init__ deserialize_cuda_engine"),
    (EVERY, "ICudaEngine", "create_execution_context"),
    (UP_TO_8, "ICudaEngine", "num_bindings get_binding_name binding_is_input"),
    (UP_TO_8, "ICudaEngine", "get_binding_shape get_binding_dtype get_binding_index"),
    (UP_TO_10, "ICudaEngine", "device_memory_size"),
    (FROM_8_5, "ICudaEngine", "num_io_tensors get_tensor_name get_tensor_mode"),
    (FROM_8_5, "ICudaEngine", "get_tensor_shape get_tensor_dtype"),
    (UP_TO_8, "IExecutionContext", "execute_async_v2"),
    (FROM_8_5, "IExecutionContext", "execute_async_v3 set_tensor_address set_input_shape"),
    (FROM_8_5, "TensorIOMode", "NONE INPUT OUTPUT"),
    (EVERY, "Dims", "__len__ __getitem__"),
    # Building.
    (EVERY, "Builder", "__init__ create_network create_builder_config build_serialized_network"),
    (UP_TO_10, "Builder", "platform_has_fast_fp16"),
    (EVERY, "OnnxParser", "__init__ parse num_errors get_error"),
    (EVERY, "ParserError", "desc code node"),
    (EVERY, "INetworkDefinition", "num_inputs num_outputs num_layers get_input get_output"),
    (EVERY, "ITensor", "name shape dtype"),
    (EVERY, "IBuilderConfig", "set_flag clear_flag get_flag create_timing_cache set_timing_cache"),
    (UP_TO_8, "IBuilderConfig", "max_workspace_size"),
    (FROM_8_5, "IBuilderConfig", "set_memory_pool_limit"),
    (FROM_10, "IBuilderConfig", "progress_monitor"),
    (EVERY, "ITimingCache", "serialize"),
    (EVERY, "IHostMemory", "nbytes"),
    (FROM_10, "IProgressMonitor", "__init__ phase_start step_complete phase_finish"),
    (EVERY, "BuilderFlag", "TF32"),
    (UP_TO_10, "BuilderFlag", "FP16 INT8"),
    (FROM_8_5, "MemoryPoolType", "WORKSPACE DLA_MANAGED_SRAM"),
    (UP_TO_10, "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    (FROM_10, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
)

# (class, name) -> the versions that have it.
NAMES = {
    (owner, name): frozenset(versions)
    for versions, owner, names in _TABLE
    for name in names.split()
}
assert len(NAMES) == sum(len(names.split()) for _, _, names in _TABLE), "a name is given twice"
