"""The number of the layers' face: raised when the instrument asks layers for something that earlier ones lack.

`membench ab` measures a revision's layers with this instrument where they have the number that it asks for. A name
that is asked for anew under an old number would fail there, on the side of the older commit alone.
"""

import ast

from house import modules

from membench.layers.face import FACE

# What the instrument imports of layers, by the number. A new name: raise FACE and give the new number its names; one
# that all layers of the number have had needs no new one.
ASKED = {
    12: """
        checking.answer:find_fault checking.answer:parameter_faults checking.digest:Digest
        checking.update_verification:update_errors checking.verification:Verification
        checking.verification:verify factory:build initialize:fill_normal_ kernels.cpp_build:kernels
        kernels.matmul:linear kernels.pages:on_huge_pages kernels.paths:fallback kernels.paths:forget_taken
        kernels.paths:implementation kernels.paths:path_of kernels.paths:taken kernels.stages:observed_by
        layer:Layer layer:RemoteAssignments layer:RemoteLookups layer:Routing layer:torch_dtype layers:factory
        models.model:Model
        optim.layer_optimizer:LayerOptimizer routing:StatedRouting spec.base:WIDTH_MULTIPLE
        spec.quantities:DTypeName spec.quantities:MAX_NUM_KEYS spec.quantities:format_num_keys
        spec.quantities:format_quantity spec.quantities:parse_num_keys spec.quantities:parse_quantity
        spec:AnySpec spec:Cost spec:DenseSpec spec:ExpertRowsSpec spec:ExternalSpec spec:FreeDimension
        spec:GroupedExpertsSpec spec:KINDS spec:KeyScoresSpec spec:LayerSpec spec:MODES spec:MemorySpec
        spec:MoESpec spec:Mode spec:OPERATORS spec:OPTIMIZERS spec:OperatorSpec spec:Optimizer spec:PeerSpec
        spec:ProductKeyTopKSpec spec:RetrievalSpec spec:RoutingKind spec:Spec spec:StageCost spec:Step
        spec:WeightedBagSpec spec:has_backward layer:has_gradient spec:At spec:BlockSpec spec:ModelShape
        spec:ModelSpec spec:OwnLayerSpec spec:PRESETS spec:Pool
        tables.host_table:HostTable tables.value_table:ValueTable
        spec:COLLECTIVES spec:Collective spec:CollectiveKind spec:Layout spec:collectives
        parallel.cut_tensors:own_part parallel.distributed:connect parallel.exchange:Exchange spec:SHARED_BY
        spec:SharedBy spec:sent_by_kind
        kernels.lookups:Runs kernels.row_update:ROW_OPTIMIZERS kernels.row_update:RowState
        kernels.row_update:RowStep kernels.torch.lookups:find_runs kernels.triton:grouped_matmul
        kernels.triton:quantized_bag kernels.triton:read_rows kernels.triton:row_passes kernels.triton:top_k
        models.fully_sharded:gathered models.fully_sharded:shard_matrices parallel.collectives:reduce_scattered
        factory:AnySpec factory:MODULES kernels.bodies:body_of kernels.triton:launch kernels.triton:rms_norm
        kernels.triton:swiglu kernels.triton:three_parts kernels:paths kernels:stages parallel.collectives:Gather
        spec:spec_from
        spec.accounting:dram_row_bytes spec.expectation:expected_busiest_load spec.expectation:expected_unique
        kernels.triton:dispatch kernels.triton:lookups kernels.triton:router
        checking.answer:copied checking.answer:tensors_of kernels:step_clock kernels.triton:step_clock
        layers:sharded_checkpoint layers:checkpoint_digests
        checkpoint_digests:of_all
    """,
}


def asked():
    """``module:name`` of all that the instrument imports of layers, in any function, also for type checking."""
    for path in modules("membench"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("membench.layers"):
                place = node.module.removeprefix("membench.").removeprefix("layers").removeprefix(".") or "layers"
                yield from (f"{place}:{alias.name}" for alias in node.names if node.module != "membench.layers.face")


def test_what_the_instrument_asks_for_is_what_the_number_stands_for():
    new = set(asked()) - set(ASKED[FACE].split())
    assert not new, f"raise FACE in layers/face.py: the instrument now asks layers for {sorted(new)}"
