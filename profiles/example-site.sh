# Facts of one imaginary site; copy, change, and source it before snakemake --profile slurm.
export NANO3_ACCOUNT=llm_research
export NANO3_PARTITION=cpu
export NANO3_GPU_PARTITION=h100
export NANO3_GPU_TYPE=h100
export NANO3_CONTAINER_RUNTIME=pyxis
export NANO3_IMAGE_TRAIN=/lustre/images/nemo-25.11.nemotron_3_nano.sqsh
export NANO3_IMAGE_RL=/lustre/images/nemo-rl-v0.4.0.nemotron_3_nano.sqsh
export NANO3_MOUNTS=/lustre:/lustre
