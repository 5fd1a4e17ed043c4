class NoException(BaseException):
    def __str__(self):
        raise SystemExit(4)


raise NoException
