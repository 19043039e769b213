"""How the trained models of the zoo were made; needed only to make them again."""
