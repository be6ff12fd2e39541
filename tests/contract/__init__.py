"""What every backbone with every method must do, whoever adds them: the suite runs over both registries."""
