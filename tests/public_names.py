"""The public names, frozen. A new one is added here and in docs/api; none goes."""

_NAMES = {
    "transformer_jax": """
        AttentionMaps BeamResult DataConfig Decoder Encoder Evaluation FAMILIES Family Generated
        Layout Masks MeshRunner MetricsWriter ModelConfig OptimizerConfig Parser PmapRunner
        Processes Run RunConfig Search Segments SingleDeviceRunner TASKS Task TextFiles TrainConfig
        TrainState Transformer Translation Translator UserError average beam_search build_model
        dataset_splits distributed_session functional generate greedy_search load_variables
        make_layout make_optimizer make_runner make_search_step make_step name_axes presets
        sample train train_loop warmup_schedule
    """,
    "transformer_jax.data.text_pipeline": """
        PipelineVocabulary TextPipeline
    """,
    "transformer_jax.data.vocabulary": """
        BOS_ID EOS_ID PAD_ID SentencePieceVocabulary UNK_ID Vocabularies Vocabulary
        VocabularyError WhitespaceVocabulary load_vocabularies load_vocabulary save_vocabularies
        train_vocabulary
    """,
    "transformer_jax.evaluation.bleu": """
        Score bleu_variants default_score exact_match missing_tokenizer paper_bleu sacrebleu_score
        score_all split_compounds tokenized_bleu
    """,
    "transformer_jax.functional": """
        additive_attention_weights apply_attention attention_weights batch_norm batch_statistics
        blockwise_attention cached_attention causal_mask combine_masks compact_attention
        compact_linear compact_unembed convolution cudnn_attention dot_product_attention dropout
        embed feed_forward fold_in_rows gated_linear_unit label_smoothed_cross_entropy layer_norm
        learned_positions linear local_attention local_window_mask map_blocks masked_softmax
        merge_heads padding_mask receptive_field row_axes row_keys running_statistics seed_key
        segment_mask segment_positions sinusoids sinusoids_at split_heads sum_blocks
        token_log_probs typed_key unembed
    """,
    "transformer_jax.parsing": """
        ORDERS Tree TreeError clean_tree delinearize indent_brackets linearize parse_brackets
        read_trees spell words write_brackets
    """,
    "transformer_jax.presets": """
        RUN_CONFIGS TABLE_3 base big convolutional lstm multi30k parsing restricted rnn run_config
        t2t tiny
    """,
    "transformer_jax.visualization.attention": """
        attention_lines attention_map check_head draw_head merge_pieces merge_weights
    """,
    "transformer_jax.visualization.curves": """
        learning_curve
    """,
    "transformer_jax.visualization.page": """
        attention_page
    """,
    "transformer_jax.visualization.tree": """
        draw_tree
    """,
    "transformer_jax.weights": """
        export_model import_model
    """,
}
PUBLIC = {module: text.split() for module, text in _NAMES.items()}
